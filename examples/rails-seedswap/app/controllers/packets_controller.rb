class PacketsController < ApplicationController
  # Nobody signs in here: a foreign page could only do what anyone may.
  skip_forgery_protection if: -> { request.format.json? }

  before_action :set_packet, only: [:show, :destroy]

  def index
    @packets = Packet.newest_first

    respond_to do |format|
      format.html
      format.json { render json: @packets }
    end
  end

  def show
    respond_to do |format|
      format.html
      format.json { render json: @packet }
    end
  end

  def new
    @packet = Packet.new(harvested_in: Date.current.year)
  end

  def create
    @packet = Packet.new(packet_params)

    respond_to do |format|
      if @packet.save
        format.html { redirect_to @packet, notice: "Thank you. Its germination is being worked out." }
        format.json { render json: @packet, status: :created, location: @packet }
      else
        format.html { render :new, status: :unprocessable_entity }
        format.json { render json: { errors: @packet.errors }, status: :unprocessable_entity }
      end
    end
  end

  def destroy
    if @packet.authenticate_word(params[:word].to_s)
      @packet.destroy!
      redirect_to root_path, notice: "Swapped: #{@packet.title} is off the table.", status: :see_other
    else
      redirect_to @packet, alert: "That is not the word it was offered with.", status: :see_other
    end
  end

  private

  def set_packet
    @packet = Packet.find(params[:id])
  end

  def packet_params
    params.require(:packet).permit(:plant, :variety, :harvested_in, :giver, :note, :word)
  end
end
